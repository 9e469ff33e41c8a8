"""From a recipe to resumable stages to a report; the command line is its face."""
