"""What watching jobs, parsing DAGs and the MNIST lifecycle cost, and what other providers cost: ``make bench``."""
