"""Real servers for tests, from wheels: started on free ports of the loopback interface, ended by process id."""
