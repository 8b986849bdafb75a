"""Apache Kafka on this machine, from Maven Central jars: for tests and benchmarks alike."""
