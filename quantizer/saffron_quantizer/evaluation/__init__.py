"""A written checkpoint against its original on the gate set: figures, their bounds, and nothing about limits."""
