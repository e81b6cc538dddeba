"""What is done with whole runs that are stored: a run as one file.

Knows stores by their protocols only, and drives nothing.
"""
