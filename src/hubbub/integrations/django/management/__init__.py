"""What ``manage.py`` gets."""
