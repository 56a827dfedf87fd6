"""A report on an evaluation, as one HTML file. :func:`.build.build_report` makes it."""
