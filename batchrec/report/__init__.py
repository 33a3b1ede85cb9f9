"""What a run says about itself: while it goes, at its end, to people and to programs."""
