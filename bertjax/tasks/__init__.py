"""Fine-tuning tasks, one file each: files, features, head, metric."""
