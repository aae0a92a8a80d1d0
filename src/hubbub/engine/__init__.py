"""One process's live state: connections, sessions, rooms and what goes out."""
