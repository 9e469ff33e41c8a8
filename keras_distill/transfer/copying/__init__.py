"""A teacher's weights into a student's layers: whole, a part of the channels, rows of tokens."""
