"""``make bench``: the cost of watching jobs, parsing DAGs and the MNIST lifecycle, compared with other providers."""
