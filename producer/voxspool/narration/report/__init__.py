"""The report of a narration: its data, the page that shows it, and the check by transcription."""
