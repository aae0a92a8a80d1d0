"""What hubbub tells about itself: log lines and their fields."""
