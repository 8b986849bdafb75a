package bench;

import io.smallrye.mutiny.Uni;
import io.smallrye.reactive.messaging.kafka.reply.KafkaRequestReply;
import io.smallrye.reactive.messaging.kafka.reply.KafkaRequestReplyTimeoutException;
import jakarta.enterprise.context.ApplicationScoped;
import jakarta.ws.rs.POST;
import jakarta.ws.rs.Path;
import jakarta.ws.rs.Produces;
import jakarta.ws.rs.core.MediaType;
import jakarta.ws.rs.core.Response;
import org.eclipse.microprofile.reactive.messaging.Channel;
import org.eclipse.microprofile.reactive.messaging.OnOverflow;

/** SmallRye's own way to request/reply over Kafka on Quarkus: non-blocking end to end, bytes all the way. */
@Path("/")
@ApplicationScoped
public class Gateway {
    private final KafkaRequestReply<byte[], byte[]> orders;

    // The default buffer of 128 refuses a burst instead of letting it wait, as every other gateway here does.
    Gateway(@Channel("orders") @OnOverflow(OnOverflow.Strategy.UNBOUNDED_BUFFER)
            KafkaRequestReply<byte[], byte[]> orders) {
        this.orders = orders;
    }

    @POST
    @Path("orders")
    @Produces(MediaType.APPLICATION_JSON)
    public Uni<Response> orders(byte[] body) {
        return orders.request(body)
            .map(reply -> Response.ok(reply).build())
            .onFailure(KafkaRequestReplyTimeoutException.class)
            .recoverWithItem(() -> Response.status(Response.Status.GATEWAY_TIMEOUT).build());
    }
}
