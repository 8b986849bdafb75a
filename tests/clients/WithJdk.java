// The JDK's java.net.http.HttpClient: HTTP/1.1 and HTTP/2. Without TLS it offers HTTP/2 by `Upgrade: h2c`, its default.

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class WithJdk {
    static final int SLOW_EACH = 4; // the service takes two seconds for these
    static final String[] METHODS = {"POST", "PUT"}; // libraries repeat an idempotent one by themselves
    static final CountDownLatch ended = new CountDownLatch(1);

    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = Files.newInputStream(Path.of(file))) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c < ' ' || c == '"' || c == '\\' || c > '~') json.append(String.format("\\u%04x", (int) c));
            else json.append(c);
        }
        return json.append('"').toString();
    }

    static synchronized void tell(
            String name, String body, int status, String version, String answer, String outcome, String error) {
        System.out.println("{\"client\": " + quoted(name) + ", \"body\": " + quoted(body) + ", \"status\": " + status
                + ", \"version\": " + quoted(version) + ", \"answer\": " + quoted(answer)
                + ", \"outcome\": " + quoted(outcome) + ", \"error\": " + quoted(error) + "}");
        System.out.flush();
    }

    /** Without a length where it streams: in chunks, or in DATA frames alone. */
    static HttpRequest.BodyPublisher publisher(String body, boolean streams) {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        return streams
                ? HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes))
                : HttpRequest.BodyPublishers.ofByteArray(bytes);
    }

    static void ask(HttpClient client, String name, String url, String method, String body, boolean streams)
            throws InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
                .timeout(Duration.ofMinutes(1))
                .method(method, publisher(body, streams))
                .build();
        try {
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            String version = answer.version() == HttpClient.Version.HTTP_2 ? "2" : "1.1";
            String outcome = answer.headers().firstValue("fastgw-outcome").orElse("");
            tell(name, body, answer.statusCode(), version, answer.body(), outcome, "");
        } catch (IOException error) {
            tell(name, body, 0, "", "", "", error + " " + error.getCause());
        }
    }

    static void loop(HttpClient client, String name, String url, int index, int pauseMs) {
        try {
            int number = 0;
            do {
                String manner = number % SLOW_EACH == SLOW_EACH - 1 ? "slow" : "fast";
                String body = manner + " " + name + " " + index + " " + number;
                ask(client, name, url, METHODS[number % METHODS.length], body, number % 4 >= 2);
                number++;
            } while (!ended.await(pauseMs, TimeUnit.MILLISECONDS));
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        SSLContext trusting = trusting(arguments[0]);
        int connections = Integer.parseInt(arguments[1]);
        int pauseMs = Integer.parseInt(arguments[2]);
        List<Thread> threads = new ArrayList<>();
        for (int place = 3; place < arguments.length; place++) {
            String[] mode = arguments[place].split("=", 3);
            HttpClient client = HttpClient.newBuilder()
                    .version(mode[1].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1)
                    .sslContext(trusting)
                    .build();
            for (int loop = 0; loop < connections; loop++) {
                int index = loop;
                threads.add(new Thread(() -> loop(client, mode[0], mode[2], index, pauseMs)));
            }
        }
        for (Thread thread : threads) thread.start();
        System.in.readAllBytes();
        ended.countDown();
        for (Thread thread : threads) thread.join();
        System.exit(0); // the client's own threads would live on
    }
}
