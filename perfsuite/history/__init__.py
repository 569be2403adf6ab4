"""What was measured over months, and when it changed."""
