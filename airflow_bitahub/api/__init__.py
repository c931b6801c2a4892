"""What the platform accepts and answers, as plain values: requests, models and calls.

Nothing here does I/O, reads a clock, or knows Airflow, httpx or a task.

Only a part of the API is documented, so a mark in a docstring or comment says where a fact comes from:

- (seed): the platform's own document, which shows requests and answers
- (client): a public client of this platform
- (family): a relative of the platform, such as OpenPAI, Volcano, KubeSphere or Kubernetes
- (vendor): the vendor's product pages
- (assumed): a guess that no source shows. Addresses, states and error codes can be overridden in the connection's
  extra
"""
