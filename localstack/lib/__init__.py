"""The parts of localstack/stack. Standard library only: it runs before anything is installed."""
