"""A book that workers speak or have spoken: the jobs of its chapters, its audio, and everything that is made of it."""
