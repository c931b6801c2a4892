"""An emulator of the platform for a laptop: it accepts the requests of the platform's API and really runs the jobs.

`server.Emulator` starts it from Python, ``airflow-bitahub emulator`` from a shell. From the rest of the package it
imports only the plain values of `airflow_bitahub.api`, the errors, the version, where the examples are, which packages
an extra needs, and what its pages share with those in Airflow (`airflow_bitahub.pages`). It imports nothing that sends
a request. So client and emulator only meet on the socket.

    server.py       `Emulator`: home, token, socket
    connection.py   the Airflow connection to an emulator
    credentials.py  a private home; token and password for a start from the shell
    scripts.py      jobs and servings whose outcome a test defines
    answers.py      the forms of the platform's answers
    origins.py      whether a request comes from a web page of another site
    listener.py     how its HTTP servers listen, and what clients can occupy
    state/          what the platform knows
        errors.py          why a request is refused
        records.py         jobs, and how they change
        serving_records.py servings, likewise
        clock.py           a clock that never goes back
        metering.py        what a serving has used
        store.py           records on disk
        state.py           all records, and the ledger of requests
        capacity.py        which jobs may run now
    mounts/         the folders that a program sees
        shared_storage.py  the platform's folders
        workdir.py         the folder that a job or serving runs in
        symlinks.py        a workdir with symbolic links, and container paths mapped to them
        sandbox.py         a workdir with its own file system, by bubblewrap
        handles.py         opening a folder without following links
        privileges.py      what is different for root
        relay.py           leads into the network of a sandbox that has one of its own
    faults/         what goes wrong on demand
        faults.py          which requests fail, and how
        disguise.py        wrong records in the answers to queries
        hangup.py          closing a connection without an answer
        injector.py        applies the faults
    run/            runs jobs and servings as processes
        images.py          Python environments in place of container images; images.toml
        memory.py          ends programs that use too much memory
        processes.py       one command in its own process group
        rendezvous.py      how the replicas of a job find each other
        outbound.py        leads a program out of a network of its own
        ports.py           which port a program listens on
        gateway.py         the address of a serving
        runs.py            what jobs and servings have in common
        jobs.py            runs jobs
        replicas.py        runs one replica of a serving
        servings.py        runs servings
        runner.py          runs both
    http/           the platform over HTTP
        context.py         what the routes work with
        profiles.py        jobs as JSON, in each shape that an installation may answer
        views.py           servings and the ledger as JSON
        openapi.py         the description at /openapi.json
        signin.py          users and their tokens
        access.py          who may send which request
        bodies.py          strict reading of bodies
        task_url.py        which Airflow task a submission comes from
        jobs.py            routes of jobs
        servings.py        routes of servings
        control.py         routes of the emulator's own
        app.py             the application
    console/        pages for people
        access.py          who may see and change what
        texts.py           English and Chinese
        pages.py           renders the templates
        files.py           output files of jobs
        logs.py            the end of a log
        timeline.py        the states of a job as a picture
        jobs.py            pages of jobs
        asking.py          sends pictures to a serving
        servings.py        pages of servings
        models.py          models and their versions
        capacity.py        capacity and queues
        faults.py          faults in force
        session.py         typing the token
        app.py             the application

Imports run in one direction: state <- mounts, faults <- run <- http <- console <- server. `answers`, `origins`,
`credentials` and `scripts` import nothing of these folders, and `listener` only how a connection is closed.
"""

from airflow_bitahub.extras import require_extra

require_extra("emulator")
