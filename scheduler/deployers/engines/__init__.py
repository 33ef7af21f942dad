"""What starts servers, one module each behind scheduler.deployers.base: processes, Kubernetes, Slurm, Ray.

A module is imported only where a pool names its engine: each brings a client library that other hosts need not have.
"""
