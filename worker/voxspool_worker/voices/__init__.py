"""The voices that a worker speaks with: those of its engine, cloned ones, and those that can be downloaded."""
