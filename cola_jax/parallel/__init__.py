"""Device mesh, sharding rules of parameters, and the rows of each process."""
