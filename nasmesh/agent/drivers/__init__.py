"""One driver per kind of task: how an attempt is worked on by the server beside the agent."""
