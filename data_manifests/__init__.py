"""The shipped manifests of published sets, one YAML file each; see README.md."""
