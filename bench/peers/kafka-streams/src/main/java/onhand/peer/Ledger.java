package onhand.peer;

import com.google.protobuf.CodedInputStream;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.WireFormat;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Keeps on hand, committed and the sold count of each SKU from stock.events, and emits the level after each event, with exactly_once_v2.
 *
 * <p>It leaves out what the projector does beyond that: de-duplication by event id, the memory of order lines, several locations, held,
 * inbound and unsellable stock, rejected records, and a view that others can read (its state store is private to it).
 *
 * <p>Arguments: brokers, input topic, output topic, number of events, threads, store (memory or rocksdb), caching (true or false), state
 * directory. Prints one JSON line: events, and seconds and processor seconds of this process from the first event processed to the last.
 */
public final class Ledger {
  private static final AtomicLong done = new AtomicLong();
  private static final AtomicLong first = new AtomicLong();
  private static final AtomicLong last = new AtomicLong();
  private static final AtomicLong firstCpu = new AtomicLong();
  private static final AtomicLong lastCpu = new AtomicLong();
  private static final com.sun.management.OperatingSystemMXBean system =
      (com.sun.management.OperatingSystemMXBean) java.lang.management.ManagementFactory.getOperatingSystemMXBean();

  public static void main(String[] args) throws Exception {
    String brokers = args[0];
    String input = args[1];
    String output = args[2];
    long total = Long.parseLong(args[3]);
    int threads = Integer.parseInt(args[4]);
    boolean memory = args[5].equals("memory");
    boolean caching = Boolean.parseBoolean(args[6]);

    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer-" + System.nanoTime());
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, threads);
    p.put(StreamsConfig.STATE_DIR_CONFIG, args[7]);
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, caching ? 128L << 20 : 0L);
    p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_BYTES_CONFIG), 32 << 20);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 64L << 20);

    StoreBuilder<KeyValueStore<byte[], byte[]>> store =
        Stores.keyValueStoreBuilder(
            memory ? Stores.inMemoryKeyValueStore("levels") : Stores.persistentKeyValueStore("levels"),
            Serdes.ByteArray(),
            Serdes.ByteArray());
    store = store.withLoggingEnabled(Map.of("compression.type", "lz4"));
    store = caching ? store.withCachingEnabled() : store.withCachingDisabled();

    Topology t = new Topology();
    t.addSource("events", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), input);
    t.addProcessor("ledger", () -> new Fold(total), "events");
    t.addStateStore(store, "ledger");
    t.addSink("levels-out", output, Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "ledger");

    CountDownLatch failed = new CountDownLatch(1);
    KafkaStreams streams = new KafkaStreams(t, p);
    streams.setUncaughtExceptionHandler(
        e -> {
          e.printStackTrace();
          failed.countDown();
          return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    streams.start();
    long deadline = System.nanoTime() + TimeUnit.MINUTES.toNanos(15);
    while (done.get() < total && failed.getCount() > 0 && System.nanoTime() < deadline) {
      failed.await(20, TimeUnit.MILLISECONDS);
    }
    boolean whole = done.get() >= total;
    streams.close(Duration.ofSeconds(30));
    if (!whole) {
      System.err.println("processed " + done.get() + " of " + total + " events");
      System.exit(1);
    }
    System.out.printf(
        "{\"events\":%d,\"seconds\":%.3f,\"cpu_seconds\":%.3f}%n",
        total, (last.get() - first.get()) / 1e9, (lastCpu.get() - firstCpu.get()) / 1e9);
  }

  /** One event after another into the level of its SKU. */
  private static final class Fold implements Processor<byte[], byte[], byte[], byte[]> {
    private final long total;
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<byte[], byte[]> levels;
    private final byte[] buffer = new byte[64];

    Fold(long total) {
      this.total = total;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
      this.context = context;
      this.levels = context.getStateStore("levels");
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      if (first.get() == 0 && first.compareAndSet(0, System.nanoTime())) {
        firstCpu.set(system.getProcessCpuTime());
      }
      long onHand = 0;
      long committed = 0;
      long sold = 0;
      long version = 0;
      try {
        byte[] before = levels.get(record.key());
        if (before != null) {
          CodedInputStream in = CodedInputStream.newInstance(before);
          onHand = in.readSInt64();
          committed = in.readSInt64();
          sold = in.readSInt64();
          version = in.readInt64();
        }
        int kind = 0;
        long quantity = 0;
        byte[] value = record.value();
        CodedInputStream in =
            value.length > 6 && value[0] == 0 ? CodedInputStream.newInstance(value, 6, value.length - 6) : CodedInputStream.newInstance(value);
        for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
          switch (WireFormat.getTagFieldNumber(tag)) {
            case 2 -> kind = in.readEnum();
            case 8 -> quantity = in.readSInt64();
            default -> in.skipField(tag);
          }
        }
        switch (kind) {
          case 1 -> {
            committed += quantity;
            sold += quantity;
          }
          case 2 -> committed -= quantity;
          case 5 -> {
            onHand -= quantity;
            committed -= quantity;
          }
          case 6, 9, 10 -> onHand += quantity;
          default -> {
            // the benchmark's topic has no other kinds
          }
        }
        version++;
        CodedOutputStream out = CodedOutputStream.newInstance(buffer);
        out.writeSInt64NoTag(onHand);
        out.writeSInt64NoTag(committed);
        out.writeSInt64NoTag(sold);
        out.writeInt64NoTag(version);
        byte[] after = java.util.Arrays.copyOf(buffer, out.getTotalBytesWritten());
        levels.put(record.key(), after);
        context.forward(record.withValue(level(record.key(), onHand, committed, sold, version)));
      } catch (IOException e) {
        throw new IllegalStateException(e);
      }
      if (done.incrementAndGet() >= total) {
        if (last.compareAndSet(0, System.nanoTime())) {
          lastCpu.set(system.getProcessCpuTime());
        }
      }
    }

    /** The StockLevel message, with the fields that this ledger knows. */
    private static byte[] level(byte[] sku, long onHand, long committed, long sold, long version) throws IOException {
      ByteArrayOutputStream bytes = new ByteArrayOutputStream(96);
      CodedOutputStream out = CodedOutputStream.newInstance(bytes, 96);
      out.writeByteArray(1, sku);
      out.writeInt64(2, version);
      out.writeSInt64(5, committed);
      out.writeSInt64(6, onHand - committed);
      out.writeSInt64(14, onHand);
      out.writeSInt64(15, sold);
      out.flush();
      return bytes.toByteArray();
    }
  }
}
