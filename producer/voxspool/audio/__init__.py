"""Audio files: writing, playing, tags, and clips to clone a voice from."""
