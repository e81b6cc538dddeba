"""What is done with whole runs that are stored, beside driving them: compare two, carry one elsewhere.

Knows stores by their protocols only, and drives nothing.
"""
