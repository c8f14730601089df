"""The parts of the hour on AWS; run.py is the program, README.md says what it does and costs."""
