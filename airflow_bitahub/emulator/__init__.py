"""The platform's other side, on a laptop: it takes the document's requests and really runs the jobs and servings.

`server.Emulator` starts it from Python, ``airflow-bitahub emulator`` from a shell. It uses of the package only the
types of `airflow_bitahub.api` and the errors, so that client and emulator meet nowhere but on the socket.

    refused.py     why a request is refused
    state.py       jobs and servings: records, rules, the ledger; no HTTP, no processes
    store.py       where they outlive the emulator
    storage.py     the platform's folders
    links.py       a job's mounts: a short folder of links, and the mapping of container paths onto it
    processes.py   one command in a process group of its own
    rendezvous.py  how the replicas of a job find one another
    images.py      images.toml: what stands for a container image
    capacity.py    which jobs may run now
    scripts.py     jobs and servings whose course is told in advance
    runs.py        what running jobs and servings have in common
    job_runs.py    performs what state.py records of jobs
    serving_runs.py  likewise of servings
    runner.py      both, as a whole
    profiles.py    jobs as JSON, in each shape an installation may answer in
    views.py       servings and the ledger as JSON
    signin.py      passwords and what they are exchanged for
    gate.py        who may ask, and how
    faults.py      what is to go wrong, on which requests
    disguise.py    what a query shows when it is to tell untruths
    injector.py    makes it all go wrong
    hangup.py      closing a connection without an answer
    description.py what is told of all this at /openapi.json
    app.py         HTTP <-> state and runner
    server.py      the socket, and `Emulator`
"""
