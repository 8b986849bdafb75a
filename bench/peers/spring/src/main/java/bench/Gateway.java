package bench;

import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.http.HttpStatus;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.KafkaReplyTimeoutException;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.TopicPartitionOffset;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;

/**
 * Spring's own way to request/reply over Kafka, as its maintainers advise for several instances: a fixed reply
 * partition, no group management. Byte arrays all the way; each request waits on a virtual thread.
 */
@SpringBootApplication
@RestController
public class Gateway {
    private static final Duration REPLY_TIMEOUT = Duration.ofSeconds(5);
    private static final Duration PARK_TIMEOUT = Duration.ofMinutes(10);

    private final ReplyingKafkaTemplate<byte[], byte[], byte[]> template;

    Gateway(ReplyingKafkaTemplate<byte[], byte[], byte[]> template) {
        this.template = template;
    }

    @PostMapping(path = "/orders", produces = MediaType.APPLICATION_JSON_VALUE)
    ResponseEntity<byte[]> orders(@RequestBody byte[] body) throws InterruptedException {
        return ask(setting("BENCH_REQUEST_TOPIC"), body, REPLY_TIMEOUT);
    }

    @PostMapping(path = "/park", produces = MediaType.APPLICATION_JSON_VALUE)
    ResponseEntity<byte[]> park(@RequestBody byte[] body) throws InterruptedException {
        return ask(setting("BENCH_PARK_TOPIC"), body, PARK_TIMEOUT);
    }

    private ResponseEntity<byte[]> ask(String topic, byte[] body, Duration timeout) throws InterruptedException {
        try {
            return ResponseEntity.ok(template.sendAndReceive(new ProducerRecord<>(topic, body), timeout).get().value());
        } catch (ExecutionException error) {
            boolean late = error.getCause() instanceof KafkaReplyTimeoutException;
            return ResponseEntity.status(late ? HttpStatus.GATEWAY_TIMEOUT : HttpStatus.BAD_GATEWAY).build();
        }
    }

    static String setting(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalStateException(name + " is not set");
        }
        return value;
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Gateway.class, arguments);
    }
}

@org.springframework.context.annotation.Configuration
class Kafka {
    @Bean
    ReplyingKafkaTemplate<byte[], byte[], byte[]> template() {
        String bootstrap = Gateway.setting("BENCH_BOOTSTRAP");
        var producers = new DefaultKafkaProducerFactory<byte[], byte[]>(Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ProducerConfig.LINGER_MS_CONFIG, 1,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true,
            ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class,
            ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class));
        var consumers = new DefaultKafkaConsumerFactory<byte[], byte[]>(Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 100,
            ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class,
            ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class));
        // One partition, so that the template names it in kafka_replyPartition; its end, so that no group is needed.
        var place = new TopicPartitionOffset(Gateway.setting("BENCH_REPLY_TOPIC"),
            Integer.parseInt(Gateway.setting("BENCH_REPLY_PARTITION")), TopicPartitionOffset.SeekPosition.END);
        var properties = new ContainerProperties(place);
        properties.setAckMode(ContainerProperties.AckMode.MANUAL); // never acknowledged: nothing to commit to
        var template = new ReplyingKafkaTemplate<>(producers, new KafkaMessageListenerContainer<>(consumers, properties));
        template.setSharedReplyTopic(true);
        return template;
    }
}
