import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.List;

/**
 * Serves MongoDB's wire protocol from memory: a stand-in for long tests and load. What it holds ends with it. It knows no
 * transactions, change streams or text search.
 *
 * <pre>
 * cd deploy/local/mongo-java
 * mvn -q dependency:copy-dependencies
 * java -cp "target/dependency/*" MongoStandin.java 27017
 * </pre>
 *
 * It prints its connection string when it serves and ends on SIGTERM.
 */
public class MongoStandin {
    /** MongoDB 5.0 as it presents itself to drivers. The library's own 5.0 says wire version 8, which they refuse. */
    private static final MongoVersion VERSION = new MongoVersion() {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    };

    public static void main(String[] args) {
        MongoServer server = new MongoServer(new MemoryBackend().version(VERSION));
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println(server.getConnectionString());
    }
}
