"""One room per command (a folder of its name, or a file): its config, ``run(config)``, its unit and its worker."""
