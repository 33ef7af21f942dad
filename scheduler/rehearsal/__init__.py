"""How long a search would take: the real engine in virtual time, a real generator, modelled training and scoring."""
