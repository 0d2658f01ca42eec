<?php

// Where Composer or the system's package put PHPMailer.
require getenv('PHPMAILER_AUTOLOAD') ?: __DIR__ . '/vendor/autoload.php';

use PHPMailer\PHPMailer\PHPMailer;

$mail = new PHPMailer(true);
$mail->isSMTP();
$mail->Host = getenv('SENDKIT_SMTP_HOST') ?: 'localhost';
$mail->Port = (int) (getenv('SENDKIT_SMTP_PORT') ?: 2587);
$mail->SMTPSecure = PHPMailer::ENCRYPTION_STARTTLS;
$mail->SMTPAuth = true;
$mail->Username = 'sendkit';
$mail->Password = getenv('SENDKIT_API_KEY');
$mail->CharSet = PHPMailer::CHARSET_UTF8;
$mail->setFrom(getenv('MAIL_FROM') ?: 'hello@example.com');
$mail->addAddress(getenv('MAIL_TO') ?: 'you@example.com');
$mail->Subject = 'Hello from PHPMailer';
$mail->Body = '<p>It works</p>';
$mail->AltBody = 'It works';
$mail->isHTML(true);
$mail->send();
echo $mail->getLastMessageID(), "\n";
