"""What can be done with stored runs beside driving them: compare two, and carry one elsewhere."""
