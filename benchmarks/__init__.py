"""What watching jobs and parsing DAGs costs, beside the same of other providers: ``make bench``."""
