"""A book that workers have spoken, or are speaking: its chapters' jobs, its audio and everything made of it."""
