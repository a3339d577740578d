"""The active party's side of learning: which protocol runs when, and what the evidence decides."""
