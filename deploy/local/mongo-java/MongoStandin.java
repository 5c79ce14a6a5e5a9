import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.CursorRegistry;
import de.bwaldvogel.mongo.backend.Index;
import de.bwaldvogel.mongo.backend.IndexKey;
import de.bwaldvogel.mongo.backend.KeyValue;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.backend.memory.MemoryDatabase;
import de.bwaldvogel.mongo.backend.memory.index.MemoryUniqueIndex;
import de.bwaldvogel.mongo.bson.Document;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

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
 *
 * <p>The library's indexes answer equality only; a range would read the whole collection, under the lock that all queries
 * share, and with a million documents nothing else would be answered any more. So ranges of strings have indexes here.
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
        MongoServer server = new MongoServer(new Backend().version(VERSION));
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println(server.getConnectionString());
    }

    private static class Backend extends MemoryBackend {
        @Override
        public MemoryDatabase openOrCreateDatabase(String name) {
            return new Database(name, getCursorRegistry());
        }
    }

    private static class Database extends MemoryDatabase {
        Database(String name, CursorRegistry cursors) {
            super(name, cursors);
        }

        @Override
        protected Index<Integer> openOrCreateUniqueIndex(String collection, String name, List<IndexKey> keys, boolean sparse) {
            return keys.size() == 1
                ? new UniqueIndex(name, keys, sparse)
                : super.openOrCreateUniqueIndex(collection, name, keys, sparse);
        }

        @Override
        protected Index<Integer> openOrCreateSecondaryIndex(String collection, String name, List<IndexKey> keys, boolean sparse) {
            return keys.size() == 1
                ? new SecondaryIndex(name, keys)
                : super.openOrCreateSecondaryIndex(collection, name, keys, sparse);
        }
    }

    /** The strings of one field in order, and where their documents are. */
    private static class Ordered {
        private static final String AFTER_ALL = "\uffff";

        private record Key(String value, String id) {}

        private final String field;
        private final TreeMap<Key, Integer> positions =
            new TreeMap<>(Comparator.comparing(Key::value).thenComparing(Key::id));

        Ordered(List<IndexKey> keys) {
            field = keys.get(0).getKey();
        }

        synchronized void add(Object value, Object id, Integer position) {
            if (value instanceof String s) {
                positions.put(new Key(s, String.valueOf(id)), position);
            }
        }

        synchronized Integer remove(Object value, Object id) {
            return value instanceof String s ? positions.remove(new Key(s, String.valueOf(id))) : null;
        }

        synchronized int size() {
            return positions.size();
        }

        /** Whether the query wants a range of this field, whatever else it wants: the library filters what is found. */
        boolean canHandle(Document query) {
            return query.get(field) instanceof Document range && !range.isEmpty()
                && range.entrySet().stream().allMatch(e -> isBound(e.getKey()) && e.getValue() instanceof String);
        }

        private static boolean isBound(String operator) {
            return switch (operator) {
                case "$gt", "$gte", "$lt", "$lte" -> true;
                default -> false;
            };
        }

        synchronized List<Integer> positions(Document query) {
            Key from = new Key("", "");
            Key to = new Key(AFTER_ALL, AFTER_ALL);
            for (Map.Entry<String, Object> bound : ((Document) query.get(field)).entrySet()) {
                String value = (String) bound.getValue();
                switch (bound.getKey()) {
                    case "$gt" -> from = new Key(value, AFTER_ALL);
                    case "$gte" -> from = new Key(value, "");
                    case "$lt" -> to = new Key(value, "");
                    default -> to = new Key(value, AFTER_ALL);
                }
            }
            if (positions.comparator().compare(from, to) > 0) {
                return List.of();
            }
            return new ArrayList<>(positions.subMap(from, true, to, false).values());
        }
    }

    /** A unique index on one field that also answers ranges of its strings. */
    private static class UniqueIndex extends MemoryUniqueIndex {
        private final Ordered ordered;

        UniqueIndex(String name, List<IndexKey> keys, boolean sparse) {
            super(name, keys, sparse);
            ordered = new Ordered(keys);
        }

        @Override
        protected boolean putKeyPosition(KeyValue key, Integer position) {
            boolean added = super.putKeyPosition(key, position);
            if (added) {
                ordered.add(key.get(0), "", position);
            }
            return added;
        }

        @Override
        protected Integer removeDocument(KeyValue key) {
            ordered.remove(key.get(0), "");
            return super.removeDocument(key);
        }

        @Override
        public synchronized boolean canHandle(Document query) {
            return ordered.canHandle(query) || super.canHandle(query);
        }

        @Override
        public synchronized Iterable<Integer> getPositions(Document query) {
            return ordered.canHandle(query) ? ordered.positions(query) : super.getPositions(query);
        }
    }

    /** An index on one field that answers ranges of its strings; for anything else the collection is read. */
    private static class SecondaryIndex extends Index<Integer> {
        private final String field;
        private final Ordered ordered;

        SecondaryIndex(String name, List<IndexKey> keys) {
            super(name, keys, true); // sparse: documents without a string there are not in it
            field = keys.get(0).getKey();
            ordered = new Ordered(keys);
        }

        @Override
        public void add(Document document, Integer position, MongoCollection<Integer> collection) {
            ordered.add(document.get(field), document.get("_id"), position);
        }

        @Override
        public Integer remove(Document document) {
            return ordered.remove(document.get(field), document.get("_id"));
        }

        @Override
        public void updateInPlace(Document before, Document after, Integer position, MongoCollection<Integer> collection) {
            remove(before);
            add(after, position, collection);
        }

        @Override
        public boolean canHandle(Document query) {
            return ordered.canHandle(query);
        }

        @Override
        public Iterable<Integer> getPositions(Document query) {
            return ordered.positions(query);
        }

        @Override
        public long getCount() {
            return ordered.size();
        }

        @Override
        public Integer getPosition(Document document) {
            return null; // the unique ones know it
        }

        @Override
        public long getDataSize() {
            return 0;
        }

        @Override
        public void checkAdd(Document document, MongoCollection<Integer> collection) {}

        @Override
        public void checkUpdate(Document before, Document after, MongoCollection<Integer> collection) {}

        @Override
        public void drop() {}
    }
}
