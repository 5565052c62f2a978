"""What is seen of the machine from outside the measured process."""
