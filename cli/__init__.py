"""The command line: typer lives here, the library never knows of it."""
