public class Example {
    public static void main(String[] words) {
        System.out.println("It opens.");
    }
}
