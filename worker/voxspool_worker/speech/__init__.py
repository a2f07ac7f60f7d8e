"""Speak jobs: plan segments, schedule them on the engine, publish the audio, follow the readers."""
