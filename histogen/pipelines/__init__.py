"""One file per command: its config, ``run(config)``, its unit and its worker."""
