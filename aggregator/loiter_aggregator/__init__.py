"""The aggregator: takes in the reports of agents, keeps them, ranks hosts and processes, and answers questions."""
