"""What starts servers: processes of this host, Kubernetes, Slurm, Ray; one module each, behind scheduler.deployers.base.

A module is imported only where a pool names its engine: each brings a client library that other hosts need not have.
"""
