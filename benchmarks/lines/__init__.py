"""Lines: what hubbub does over each kind of line, beside what people use for that kind today."""
