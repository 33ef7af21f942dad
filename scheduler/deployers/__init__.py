"""The deployer: keeps the number of servers in step with the queue. A program of its own, a client of the scheduler."""
