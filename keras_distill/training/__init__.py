"""Teacher and student in one step, and all that `fit` needs around it."""
