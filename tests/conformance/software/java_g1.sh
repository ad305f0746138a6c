# A JVM under G1 with 100 threads that allocate, lock and wait; jcmd looks at it.
# seconds: 300
cat >Load.java <<'SCRIPT'
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Load {
    public static void main(String[] arguments) throws Exception {
        final int rounds = Integer.parseInt(arguments[0]);
        ExecutorService pool = Executors.newFixedThreadPool(100);
        CyclicBarrier barrier = new CyclicBarrier(100);
        AtomicLong sum = new AtomicLong();
        Map<Integer, byte[]> shared = new ConcurrentHashMap<>();
        List<Future<?>> all = new ArrayList<>();
        for (int t = 0; t < 100; t++) {
            final int id = t;
            all.add(pool.submit(() -> {
                barrier.await();
                for (int i = 0; i < rounds; i++) {
                    shared.put((id * 31 + i) % 500, new byte[4096]);
                    synchronized (shared) { sum.addAndGet(1); }
                }
                return null;
            }));
        }
        for (Future<?> one : all) one.get();
        pool.shutdown();
        System.gc();
        System.out.println(sum.get() + " " + shared.size() + " " + (Runtime.getRuntime().availableProcessors() > 0));
    }
}
SCRIPT
rounds=${ROUNDS:-2000}
javac Load.java
test "$(java -XX:+UseG1GC -Xmx256m -Xlog:gc:gc.log Load "$rounds")" = "$((100 * rounds)) 500 true"
grep -q 'Using G1' gc.log
grep -q 'Pause' gc.log
