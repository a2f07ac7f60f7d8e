"""The segment store: its place (`backends`) and its contents (`segments`)."""
