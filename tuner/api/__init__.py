"""What `import captune` offers."""
