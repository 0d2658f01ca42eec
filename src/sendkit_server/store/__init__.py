"""What is durable: schema, migrations, the writer, hot operations per engine, management queries."""
