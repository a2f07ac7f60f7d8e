"""The Lua scripts that Redis runs for a producer; the comment at the top of each lists its arguments and its reply."""
